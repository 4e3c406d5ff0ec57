"""Finding outlines without a hub: what stands out around a click, and corrections that spread over alike pieces."""
