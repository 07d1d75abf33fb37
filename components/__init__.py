"""TFX components of vaeline and the Beam transforms they share with the bulk jobs."""
