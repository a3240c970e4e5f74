"""Evaluations: every number is printed beside its floors and with the protocol that produced it."""
