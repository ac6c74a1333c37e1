# The AI stack on this machine: ports on 127.0.0.1, data in /var/lib/ai-stack.
{ pkgs, ... }:
{
  services.ai-stack = {
    enable = true;
    # accel = "vulkan";

    redis.enable = true;
    qdrant.enable = true;
    ollama.enable = true;

    postgres.enable = true;
    # A file with the password and nothing else, which is not in the Nix store.
    postgres.container.secrets.postgres-password = "/etc/secrets/postgres-password";

    llama-cpp.enable = true;
    models.smollm2 = {
      # Any GGUF file in the Nix store: one beside this file, or pkgs.fetchurl { url = …; sha256 = …; }
      src = ./SmolLM2-135M-Instruct.Q4_1.gguf;
      # Several models, switched by `windlass model use NAME --slot chat`, without a rebuild.
      delivery = "bind";
    };
    activeModel.chat = "smollm2";
  };
}
