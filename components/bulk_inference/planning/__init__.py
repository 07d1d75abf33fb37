"""What a bulk job has to do: units of work, copies, reuse, estimates."""
