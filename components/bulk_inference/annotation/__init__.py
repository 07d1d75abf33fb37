"""From a unit of work to rows: decoding, the model, the columns."""
