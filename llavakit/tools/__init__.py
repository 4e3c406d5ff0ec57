"""The skill repository: functions that models and people call, their pictures, and one place that runs them."""
