# A machine with the AI stack: what a user of nixosModules.ai-stack writes, with all services that are built, and models of
# each kind that the linked store has. The tests change one thing of it at a time. It is a home-manager user's too.
{ pkgs, ... }:
{
  services.ai-stack = {
    enable = true;
    redis.enable = true;
    postgres.enable = true;
    postgres.container.secrets.postgres-password = "/run/keys/postgres-password";
    qdrant.enable = true;
    ollama.enable = true;
    llama-cpp.enable = true;
    models = {
      large = {
        src = pkgs.writeText "large.gguf" "large";
        delivery = "bind";
      };
      larger = {
        src = pkgs.writeText "larger.gguf" "larger";
        delivery = "bind";
      };
      vectors.src = pkgs.writeText "vectors.gguf" "vectors";
    };
    activeModel = {
      chat = "large";
      embed = "vectors";
    };
  };
}
