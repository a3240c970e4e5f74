"""Which of the store's joints a bone joins: what a skeleton is drawn from."""

BONES = (  # pairs of places in COCO_JOINTS
    (5, 7), (7, 9), (6, 8), (8, 10),  # arms
    (11, 13), (13, 15), (12, 14), (14, 16),  # legs
    (5, 6), (11, 12), (5, 11), (6, 12),  # trunk
    (0, 1), (0, 2), (1, 3), (2, 4),  # face
)  # fmt: skip
