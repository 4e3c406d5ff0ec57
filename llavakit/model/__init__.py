"""Level 2: tower, connector, decoder, and the directory they are kept in."""
