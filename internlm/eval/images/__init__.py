"""Classes of single images: k nearest neighbours, linear probe and few-shot, on frozen features."""
