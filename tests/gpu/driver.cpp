// What PyTorch asks of CUDA's driver, answered for one GPU that is not there: loaded before libtorch, these hooks stand
// in for its own. Events are over as soon as they are recorded; no memory is allocated and no kernel started here.
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>

namespace {
using c10::Device, c10::DeviceIndex, c10::DeviceType, c10::Stream;

struct OneGpu final : at::CUDAHooksInterface {
  void init() const override {}
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasCUDA() const override { return true; }
  bool hasPrimaryContext(DeviceIndex) const override { return true; }
  int getNumGPUs() const override { return 1; }
  DeviceIndex deviceCount() const override { return 1; }
  DeviceIndex current_device() const override { return 0; }
  DeviceIndex getCurrentDevice() const override { return 0; }
  void setCurrentDevice(DeviceIndex) const override {}
  DeviceIndex exchangeDevice(DeviceIndex) const override { return 0; }
  DeviceIndex maybeExchangeDevice(DeviceIndex) const override { return 0; }
  bool isPinnedPtr(const void*) const override { return false; }
  long versionCuDNN() const override { return 91000; }
  long versionRuntimeCuDNN() const override { return 91000; }
};

struct OneStream final : c10::impl::DeviceGuardImplInterface {
  static Device gpu() { return Device(DeviceType::CUDA, 0); }
  static Stream only() { return Stream(Stream::DEFAULT, gpu()); }
  DeviceType type() const override { return DeviceType::CUDA; }
  Device getDevice() const override { return gpu(); }
  Device exchangeDevice(Device) const override { return gpu(); }
  void setDevice(Device) const override {}
  void uncheckedSetDevice(Device) const noexcept override {}
  DeviceIndex deviceCount() const noexcept override { return 1; }
  Stream getStream(Device) const override { return only(); }
  Stream getDefaultStream(Device) const override { return only(); }
  Stream getNewStream(Device, int) const override { return only(); }
  Stream exchangeStream(Stream) const override { return only(); }
  void record(void**, const Stream&, const DeviceIndex, const c10::EventFlag) const override {}
  void block(void*, const Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  bool queryStream(const Stream&) const override { return true; }
  void synchronizeEvent(void*) const override {}
  void synchronizeStream(const Stream&) const override {}
};
}  // namespace

namespace at::detail {
const CUDAHooksInterface& getCUDAHooks() {
  static const OneGpu hooks;
  return hooks;
}
}  // namespace at::detail

// Called once libtorch is loaded, whose own guard would ask the driver.
extern "C" void guard_one_gpu() {
  static const c10::impl::DeviceGuardImplRegistrar registrar(DeviceType::CUDA, new OneStream());
}
