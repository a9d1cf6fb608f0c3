"""What a build is before any teacher runs. Nothing here loads a teacher."""
