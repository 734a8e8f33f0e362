"""What users may say: prompts, and everything that turns other ways of naming things into words or vectors."""
