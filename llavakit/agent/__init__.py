"""A model that calls tools: the loop of calls, who may call what, tools of outside servers, what came of it."""
