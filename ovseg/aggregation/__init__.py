"""Parts of models that refine a cost map for every class: costs, aggregation in maps and over classes, upsampling."""
