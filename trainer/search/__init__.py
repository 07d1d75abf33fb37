"""The search for better options with KerasTuner."""
