"""The next body motion, teacher-forced and rolled out, beside floors and baselines."""
