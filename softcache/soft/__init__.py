"""What a student gets: soft targets to which a temperature is applied when read."""
