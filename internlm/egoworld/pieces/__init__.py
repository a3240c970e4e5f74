"""The pieces that make a place what it is, a file for each class of rooms."""

from internlm.egoworld.furniture import Furnishing
from internlm.egoworld.pieces import bathroom, bedroom, gym, kitchen, library, living_room, office, workshop

FURNISHINGS: dict[str, Furnishing] = {
    "kitchen": kitchen.FURNISHING,
    "bedroom": bedroom.FURNISHING,
    "bathroom": bathroom.FURNISHING,
    "office": office.FURNISHING,
    "library": library.FURNISHING,
    "living_room": living_room.FURNISHING,
    "workshop": workshop.FURNISHING,
    "gym": gym.FURNISHING,
}
