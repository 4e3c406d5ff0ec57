"""Level 5: judging answers: prompts and what is read of the verdicts, runs over files, preferences from a judge."""
