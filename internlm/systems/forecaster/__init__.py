"""Forecasters of body motion: siMLPe, a diffusion policy and EgoAgent without images are trained; floors and ridge are solved."""
