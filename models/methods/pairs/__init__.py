"""Methods of images beside something else: texts."""
