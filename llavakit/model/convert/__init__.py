"""A model directory written anew in another layout: above everything else of `model`."""
