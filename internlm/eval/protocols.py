"""The evaluations as a user runs them: clips or images in, a result with its floors and its protocol out."""

from .images.knn_protocol import knn_report
from .motion.protocol import motion_chunks, motion_report
from .retrieval.protocol import retrieval_report

__all__ = ["knn_report", "motion_chunks", "motion_report", "retrieval_report"]
