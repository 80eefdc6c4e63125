"""The pipeline behind Lean: assets that pull, the lake they write and the warehouse over it."""
