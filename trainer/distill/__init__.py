"""Small judges, trained: from truth, or from another judge's scores."""
