"""What a representation is worth: protocols with names and versions, and the results they give."""
