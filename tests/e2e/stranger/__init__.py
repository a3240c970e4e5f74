"""A system that the package does not know: it learns to continue a sine wave. Lives in the tests on purpose."""
