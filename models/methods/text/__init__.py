"""Methods that read texts."""
