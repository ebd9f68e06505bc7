"""A model behind the OpenAI completions interface."""
