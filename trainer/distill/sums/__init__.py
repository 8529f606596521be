"""A judge of sums, made from nothing: attempts and their graded truth, training, measuring, the folder it becomes."""
