"""How good a served model's answers are: perplexity, F1 on questions, scores of known tasks.

`python -m bench.quality` asks a server over its OpenAI API and knows nothing of the model behind
it, so a quantized checkpoint, another engine setting or another server is judged by what its
clients get.
"""
