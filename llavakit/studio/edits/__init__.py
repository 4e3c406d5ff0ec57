"""What each command does: functions from a scene and a command to the next scene."""
