"""How good the feature maps of an encoder are: segmentation, detection and depth."""
