"""One folder an evaluation; what each brings says ``eval/task.py``."""
