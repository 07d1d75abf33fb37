"""How the model learns: objective, optimiser, compiled step, loop, checkpoints."""
