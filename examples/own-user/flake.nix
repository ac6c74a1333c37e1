{
  description = "Files, modes and a user who is not root";

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
    in
    {
      # The process runs as 1000:1000; /data is its own, and the settings can be read only by it.
      packages.${system}.default = w.buildImage {
        name = "own-user";
        texts = {
          "/etc/passwd" = "root:x:0:0::/:/bin/sh\napp:x:1000:1000::/data:/bin/sh\n";
          "/etc/group" = "root:x:0:\napp:x:1000:\n";
          "/etc/app.conf" = "greeting = hello\n";
        };
        symlinks."/bin/sh" = "${pkgs.busybox}/bin/sh";
        directories."/data" = "0700";
        # Modes are set here: those of inputs do not reach an image. The last rule that matches wins.
        perms = [
          {
            regex = "^/(data|etc/app.conf)$";
            uid = 1000;
            gid = 1000;
          }
          {
            regex = "^/etc/app.conf$";
            mode = "0400";
          }
        ];
        config = {
          User = "app";
          WorkingDir = "/data";
          Cmd = [
            "/bin/sh"
            "-c"
            "${pkgs.busybox}/bin/stat -c '%U %a %n' /etc/app.conf /data"
          ];
        };
      };
    };
}
