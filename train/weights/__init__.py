"""Weights from elsewhere: files that others wrote, and first weights out of them."""
