# What the language model servers need for what they compute with.
#
# Type: { pkgs, accel, name } -> { package, available, forbid, env, devices }
#
# accel: null for the processor, "vulkan", "rocm" or "cuda"
# name:  the package, "llama-cpp" or "ollama"; nixpkgs has most of them as NAME-ACCEL too
#
# Example:
#   import ./accel.nix { inherit pkgs accel; name = "ollama"; }
{
  pkgs,
  accel,
  name,
}:
let
  # Names of store paths, as nixpkgs' cudaPackages and rocmPackages give them.
  cuda = [
    "cuda"
    "^(cudnn|cutensor|nccl|nvidia-x11)"
    "^lib(cublas|cufft|cufile|curand|cusolver|cusparse|cutensor|npp|nvjitlink|nvjpeg)"
  ];
  rocm = [
    "rocm"
    "^(hip|hsa-|miopen|rccl|clr-[0-9]|aqlprofile|amdsmi|composable_kernel)"
    "^roc(alution|blas|fft|prim|rand|solver|sparse|thrust|tracer|profiler)"
  ];
  variant = if accel == null then name else "${name}-${accel}";
  package = pkgs.${variant} or (pkgs.${name}.override { "${accel}Support" = true; });
in
{
  inherit package;
  # Whether these packages have it at all, and for this platform.
  available = (pkgs ? ${variant} || pkgs ? ${name}.override) && package.meta.available or true;
}
// (
  if accel == null then
    {
      forbid = cuda ++ rocm;
      env = [ ];
      devices = [ ];
    }
  else
    {
      # Render nodes are open to every user on NixOS. Where they are not (Debian), the container's user has to be in the
      # group that owns them: `--group-add` with that group's number.
      vulkan = {
        forbid = cuda ++ rocm;
        # Mesa's drivers, by their manifests in share/vulkan/icd.d: the loader reads them along this path.
        env = [ "XDG_DATA_DIRS=${pkgs.mesa}/share" ];
        devices = [ "/dev/dri" ];
      };
      rocm = {
        forbid = cuda;
        env = [ ];
        devices = [
          "/dev/kfd"
          "/dev/dri"
        ];
      };
      cuda = {
        forbid = rocm;
        # The driver is the host's, and comes with the device: where NixOS puts it, where nvidia-docker did, and where
        # other distributions have it.
        env = [
          "LD_LIBRARY_PATH=/run/opengl-driver/lib:/usr/local/nvidia/lib64:/usr/lib64:/usr/lib/x86_64-linux-gnu:/usr/lib/aarch64-linux-gnu"
        ];
        devices = [ "nvidia.com/gpu=all" ];
      };
    }
    .${accel}
)
