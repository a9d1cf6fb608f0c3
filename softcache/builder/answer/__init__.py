"""What teachers answer: batches in, checked and encoded answers out."""
