"""Teachers, behind distilabel's tasks and LLM interface."""
