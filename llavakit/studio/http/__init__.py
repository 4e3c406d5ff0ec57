"""The editor over HTTP: a page of static files, pictures under names nobody can guess, the chat about them."""
