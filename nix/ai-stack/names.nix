# The services of the stack: for each name there is a file beside this one.
[
  "llama-cpp"
  "mindsdb"
  "ollama"
  "open-webui"
  "postgres"
  "qdrant"
  "redis"
]
