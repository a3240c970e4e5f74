"""Classes of images by their nearest neighbours."""
