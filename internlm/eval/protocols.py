"""The evaluations as a user runs them: clips or images in, a result with its floors and its protocol out."""

from .knn_protocol import knn_report
from .motion_protocol import motion_chunks, motion_report
from .retrieval_protocol import retrieval_report

__all__ = ["knn_report", "motion_chunks", "motion_report", "retrieval_report"]
