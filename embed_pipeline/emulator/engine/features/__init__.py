"""Hand-made features of pictures, sound and words, and their projection to 512 values."""
