"""What a GPU does with Headrace: views from decoded pixels, training steps behind each engine, runs that learn."""
