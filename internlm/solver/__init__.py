"""Parameter groups, schedules of the step, the observer's moving average, gradient clipping."""
