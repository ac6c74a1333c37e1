# The formats of models, as windlass knows them: { gguf.ending = ".gguf"; safetensors.ending = ".safetensors"; … }
(builtins.fromJSON (builtins.readFile ../src/model/read/formats.json)).formats
