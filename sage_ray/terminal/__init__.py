"""What a person sees and types: verbs, answers, progress, doctor, reports; thin shells over public functions."""
