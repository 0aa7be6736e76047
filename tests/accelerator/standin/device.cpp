// A stand-in accelerator for tests, of two devices: "standin:0" and "standin:1", behind torch's key for backends of others.
//
// Its memory is the host's, and its kernels are the CPU's, run at once over the same bytes: what a block computes there is
// what it computes on a CPU, bit for bit. As on a GPU, tensors of two devices do not mix, memory is counted by device, host
// memory is pinned apart, random numbers come from generators of its own, and work belongs to a stream. Nothing runs late,
// so nothing could be seen too early; instead each stream and the host keep a vector clock, and who touches memory without
// having waited for the stream that used it last is told of a race, and so is memory freed while a stream still uses it.
#include <ATen/EmptyTensor.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/stack.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/set_native.h>
#include <ATen/ops/unfold_native.h>
#include <ATen/ops/view_native.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/impl/alloc_cpu.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/library.h>

#include <chrono>
#include <map>
#include <mutex>
#include <set>

namespace at::autocast {
TORCH_API ScalarType get_autocast_dtype(DeviceType device_type);
}

namespace standin {

using c10::Device;
using c10::DeviceIndex;
using c10::Stream;
using at::Tensor;
constexpr auto KIND = c10::DeviceType::PrivateUse1;
constexpr DeviceIndex COUNT = 2;

// ---- Time: a clock a stream, and one of the host. Stream n of the first COUNT is the default one of device n.

using Clock = std::map<int64_t, int64_t>;
struct Event {
  Clock clock;
  std::chrono::steady_clock::time_point at;
};
struct Block {
  Device device;
  int64_t stream;  // that it was allocated on
  size_t size;
  std::pair<int64_t, int64_t> written{-1, 0};  // by whom, and when
  Clock read;
  std::set<int64_t> recorded;  // streams for which it waits before it is used again
};

std::mutex lock;
std::map<int64_t, Clock> clocks;
std::map<int64_t, DeviceIndex> home;
Clock host;
std::map<const void*, Block> blocks;
std::set<const void*> pinned;
std::string too_early;  // told of memory that was freed, when something is next launched
int64_t in_use[COUNT], most[COUNT];
int64_t events_recorded = 0, next_stream = COUNT;
thread_local DeviceIndex current = 0;
thread_local int64_t streams[COUNT] = {0, 1};

void merge(Clock& into, const Clock& from) {
  for (const auto& [stream, tick] : from)
    into[stream] = std::max(into[stream], tick);
}

bool knows(const Clock& clock, int64_t stream, int64_t tick) {
  auto found = clock.find(stream);
  return found != clock.end() && found->second >= tick;
}

// Work begins on a stream, behind all that the host has waited for.
void launch(int64_t stream) {
  TORCH_CHECK(too_early.empty(), std::exchange(too_early, ""));
  merge(clocks[stream], host);
  ++clocks[stream][stream];
}

void check(const Clock& clock, int64_t by, int64_t when, int64_t stream, const std::string& what) {
  TORCH_CHECK(by < 0 || by == stream || knows(clock, by, when), "race: ", what, " on stream ", stream,
              " touches memory that stream ", by, " used, without having waited for it");
}

void touch(const Tensor& tensor, int64_t stream, bool writes, const std::string& what) {
  auto found = blocks.find(tensor.storage().data());
  if (found == blocks.end()) return;
  Block& block = found->second;
  const Clock& clock = clocks[stream];
  check(clock, block.written.first, block.written.second, stream, what);
  if (writes) {
    for (const auto& [by, when] : block.read) check(clock, by, when, stream, what);
    block.written = {stream, clock.at(stream)};
    block.read.clear();
  } else {
    block.read[stream] = clock.at(stream);
  }
}

// ---- Memory

void appear(const void* data, size_t size, DeviceIndex index, int64_t stream) {
  std::lock_guard<std::mutex> guard(lock);
  blocks.insert_or_assign(data, Block{Device(KIND, index), stream, size});
  in_use[index] += size;
  most[index] = std::max(most[index], in_use[index]);
}

void vanish(const void* data) {
  std::lock_guard<std::mutex> guard(lock);
  auto found = blocks.find(data);
  if (found == blocks.end()) return;
  const Block& block = found->second;
  Clock uses = block.read;
  if (block.written.first >= 0) uses[block.written.first] = block.written.second;
  for (const auto& [by, when] : uses) {
    bool waited = knows(clocks[block.stream], by, when) || knows(host, by, when) || block.recorded.count(by);
    if (by != block.stream && !waited)
      too_early = c10::str("race: memory of stream ", block.stream, " was freed while stream ", by, " used it");
  }
  in_use[block.device.index()] -= block.size;
  blocks.erase(found);
}

void release(void* data) {
  vanish(data);
  c10::free_cpu(data);
}

struct Allocator final : c10::DeviceAllocator {
  c10::DataPtr allocate(size_t size) override {
    void* data = size ? c10::alloc_cpu(size) : nullptr;
    if (data) appear(data, size, current, streams[current]);
    return {data, data, data ? &release : &c10::detail::deleteNothing, Device(KIND, current)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &release; }
  void copy_data(void* to, const void* from, size_t count) const override { std::memcpy(to, from, count); }
  bool initialized() override { return true; }
  void emptyCache(c10::MempoolId_t) override {}
  void recordStream(const c10::DataPtr& data, Stream stream) override {
    std::lock_guard<std::mutex> guard(lock);
    auto found = blocks.find(data.get());
    if (found != blocks.end()) found->second.recorded.insert(stream.id());
  }
  c10::CachingDeviceAllocator::DeviceStats getDeviceStats(DeviceIndex index) override {
    c10::CachingDeviceAllocator::DeviceStats stats;
    stats.allocated_bytes[0].current = in_use[index];
    stats.allocated_bytes[0].peak = most[index];
    return stats;
  }
  void resetAccumulatedStats(DeviceIndex) override {}
  void resetPeakStats(DeviceIndex index) override { most[index] = in_use[index]; }
};
Allocator allocator;

void unpin(void* data) {
  std::lock_guard<std::mutex> guard(lock);
  pinned.erase(data);
  c10::free_cpu(data);
}

struct PinnedAllocator final : c10::Allocator {
  c10::DataPtr allocate(size_t size) override {
    void* data = size ? c10::alloc_cpu(size) : nullptr;
    std::lock_guard<std::mutex> guard(lock);
    if (data) pinned.insert(data);
    return {data, data, data ? &unpin : &c10::detail::deleteNothing, Device(c10::DeviceType::CPU)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &unpin; }
  void copy_data(void* to, const void* from, size_t count) const override { std::memcpy(to, from, count); }
};
PinnedAllocator pinned_allocator;

// ---- Devices, streams and events, as torch asks for them

struct Guard final : c10::impl::DeviceGuardImplInterface {
  Guard() = default;
  explicit Guard(c10::DeviceType) {}
  c10::DeviceType type() const override { return KIND; }
  Device exchangeDevice(Device device) const override {
    Device before = getDevice();
    setDevice(device);
    return before;
  }
  Device getDevice() const override { return {KIND, current}; }
  void setDevice(Device device) const override {
    TORCH_CHECK(device.index() < COUNT, "there is no device ", device);
    uncheckedSetDevice(device);
  }
  void uncheckedSetDevice(Device device) const noexcept override {
    if (device.index() >= 0) current = device.index();
  }
  DeviceIndex deviceCount() const noexcept override { return COUNT; }
  Stream as_stream(int64_t id, DeviceIndex index) const { return Stream(Stream::UNSAFE, Device(KIND, index), id); }
  DeviceIndex index_of(Device device) const { return device.index() < 0 ? current : device.index(); }
  Stream getStream(Device device) const override { return as_stream(streams[index_of(device)], index_of(device)); }
  Stream getDefaultStream(Device device) const override { return as_stream(index_of(device), index_of(device)); }
  Stream getNewStream(Device device, int) const override {
    std::lock_guard<std::mutex> guard(lock);
    home[next_stream] = index_of(device);
    return as_stream(next_stream++, index_of(device));
  }
  Stream getStreamFromGlobalPool(Device device, bool) const override { return getNewStream(device, 0); }
  Stream exchangeStream(Stream stream) const override {
    Stream before = getStream(stream.device());
    streams[stream.device_index()] = stream.id();
    return before;
  }
  void record(void** event, const Stream& stream, const DeviceIndex, const c10::EventFlag) const override {
    std::lock_guard<std::mutex> guard(lock);
    ++events_recorded;
    if (!*event) *event = new Event;
    merge(clocks[stream.id()], host);
    *static_cast<Event*>(*event) = {clocks[stream.id()], std::chrono::steady_clock::now()};
  }
  void block(void* event, const Stream& stream) const override {
    std::lock_guard<std::mutex> guard(lock);
    if (event) merge(clocks[stream.id()], static_cast<Event*>(event)->clock);
  }
  void destroyEvent(void* event, const DeviceIndex) const noexcept override { delete static_cast<Event*>(event); }
  bool queryEvent(void*) const override { return true; }
  bool queryStream(const Stream&) const override { return true; }
  void synchronizeEvent(void* event) const override {
    std::lock_guard<std::mutex> guard(lock);
    if (event) merge(host, static_cast<Event*>(event)->clock);
  }
  void synchronizeStream(const Stream& stream) const override {
    std::lock_guard<std::mutex> guard(lock);
    merge(host, clocks[stream.id()]);
  }
  void synchronizeDevice(const DeviceIndex index) const override {
    std::lock_guard<std::mutex> guard(lock);
    for (const auto& [stream, clock] : clocks)
      if ((stream < COUNT ? stream : home[stream]) == index) merge(host, clock);
  }
  void recordDataPtrOnStream(const c10::DataPtr& data, const Stream& stream) const override {
    allocator.recordStream(data, stream);
  }
  double elapsedTime(void* first, void* last, const DeviceIndex) const override {
    TORCH_CHECK(first && last, "both events must be recorded");
    std::chrono::duration<double, std::milli> passed = static_cast<Event*>(last)->at - static_cast<Event*>(first)->at;
    return passed.count();
  }
};
C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard)

struct Hooks final : at::PrivateUse1HooksInterface {
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(DeviceIndex) const override { return true; }
  DeviceIndex deviceCount() const override { return COUNT; }
  DeviceIndex getCurrentDevice() const override { return current; }
  void setCurrentDevice(DeviceIndex index) const override { Guard().setDevice({KIND, index}); }
  DeviceIndex exchangeDevice(DeviceIndex index) const override { return Guard().exchangeDevice({KIND, index}).index(); }
  DeviceIndex maybeExchangeDevice(DeviceIndex index) const override { return exchangeDevice(index); }
  bool isPinnedPtr(const void* data) const override {
    std::lock_guard<std::mutex> guard(lock);
    return pinned.count(data);
  }
  c10::Allocator* getPinnedMemoryAllocator() const override { return &pinned_allocator; }
  void resizePrivateUse1Bytes(const c10::Storage& storage, size_t size) const override {
    c10::DeviceGuard guard(storage.device());
    c10::DataPtr grown = allocator.allocate(size);
    if (size_t kept = std::min(size, storage.nbytes())) std::memcpy(grown.get(), storage.data(), kept);
    storage.set_data_ptr_noswap(std::move(grown));
    storage.set_nbytes(size);
  }
};

at::Generator& generator(int64_t index) {
  static at::Generator each[COUNT] = {at::detail::createCPUGenerator(), at::detail::createCPUGenerator()};
  return each[index];
}

// ---- Kernels: the CPU's, over the same bytes

Tensor made(c10::Storage storage, const Tensor& like, c10::DispatchKey key, int64_t offset) {
  Tensor tensor = at::detail::make_tensor<c10::TensorImpl>(std::move(storage), c10::DispatchKeySet(key), like.dtype());
  tensor.unsafeGetTensorImpl()->set_sizes_and_strides(like.sizes(), like.strides(), offset);
  return tensor;
}

Tensor on_host(const Tensor& tensor) {
  auto data = c10::DataPtr(const_cast<void*>(tensor.storage().data()), Device(c10::DeviceType::CPU));
  c10::Storage storage(c10::Storage::use_byte_size_t(), tensor.storage().nbytes(), std::move(data), nullptr, false);
  return made(std::move(storage), tensor, c10::DispatchKey::CPU, tensor.storage_offset());
}

void let_go(void* holder) {
  auto* held = static_cast<c10::Storage*>(holder);
  vanish(held->data());
  delete held;
}

Tensor on_device(const Tensor& computed, DeviceIndex index) {
  const c10::Storage& storage = computed.storage();
  void* data = const_cast<void*>(storage.data());
  if (data) appear(data, storage.nbytes(), index, streams[index]);
  c10::DataPtr held(data, new c10::Storage(storage), &let_go, Device(KIND, index));
  c10::Storage own(c10::Storage::use_byte_size_t(), storage.nbytes(), std::move(held), &allocator, true);
  return made(std::move(own), computed, c10::DispatchKey::PrivateUse1, computed.storage_offset());
}

bool here(const Tensor& tensor) { return tensor.defined() && tensor.device().type() == KIND; }

// One call of an operator: what goes in is aliased on the host, what comes out is given to the device.
struct Call {
  std::string name;
  DeviceIndex index = -1;
  std::vector<std::pair<Tensor, Tensor>> aliases;  // on the device, on the host
  std::vector<std::pair<Tensor, bool>> touched;    // and whether it is written
  bool mixes;

  explicit Call(const c10::FunctionSchema& schema)
      : name(schema.name()), mixes(name.rfind("aten::index", 0) == 0 || name.rfind("aten::_index_put", 0) == 0) {}

  void meet(const Tensor& tensor) {
    if (!tensor.defined()) return;
    if (here(tensor)) {
      TORCH_CHECK(index < 0 || index == tensor.get_device(), name, ": expected all tensors to be on the same device, "
                  "but found standin:", int(index), " and ", tensor.device());
      index = tensor.get_device();
    }
  }
  Tensor in(const Tensor& tensor, bool written) {
    if (!tensor.defined()) return tensor;
    if (!here(tensor)) {
      TORCH_CHECK(tensor.dim() == 0 || mixes, name, ": expected all tensors to be on the same device, but found ",
                  tensor.device(), " and standin:", int(index));
      return tensor;
    }
    touched.emplace_back(tensor, written);
    bool grows = written && tensor.numel() == 0;
    Tensor alias = grows ? at::detail::empty_cpu({0}, tensor.scalar_type()) : on_host(tensor);
    aliases.emplace_back(tensor, alias);
    return alias;
  }
  Tensor out(const Tensor& computed) {
    if (!computed.defined()) return computed;
    for (auto& [own, alias] : aliases)
      if (alias.is_same(computed)) return own;
    for (auto& [own, alias] : aliases)
      TORCH_CHECK(!computed.numel() || computed.storage().data() != alias.storage().data(), name, " gives a view");
    Tensor tensor = on_device(computed, index);
    std::lock_guard<std::mutex> guard(lock);
    touch(tensor, streams[index], true, name);
    return tensor;
  }
  void begin() {
    std::lock_guard<std::mutex> guard(lock);
    launch(streams[index]);
    for (auto& [tensor, written] : touched) touch(tensor, streams[index], written, name);
  }
  void grow() {  // what was given empty, to be resized
    for (auto& [own, alias] : aliases)
      if (own.numel() == 0 && alias.numel() > 0) {
        Tensor grown = on_device(alias, index);
        own.unsafeGetTensorImpl()->set_storage_keep_dtype(grown.storage());
        own.unsafeGetTensorImpl()->set_sizes_and_strides(alias.sizes(), alias.strides(), alias.storage_offset());
      }
  }
};

bool is_tensors(const c10::IValue& value) { return value.isTensorList() || value.isOptionalTensorList(); }

void on_cpu(const c10::OperatorHandle& op, torch::jit::Stack* stack);

c10::OperatorHandle named(const char* name) { return c10::Dispatcher::singleton().findSchemaOrThrow(name, ""); }

// Convolutions of kinds that torch does not know come under names of their own.
void convolution(const c10::OperatorHandle&, torch::jit::Stack* stack) { on_cpu(named("aten::convolution"), stack); }

void convolution_backward(const c10::OperatorHandle&, torch::jit::Stack* stack) {
  const size_t first = stack->size() - 10;
  const Tensor weight = (*stack)[first + 2].toTensor();
  const bool transposed = (*stack)[first + 6].toBool();
  const int64_t groups = (*stack)[first + 8].toInt();
  const int64_t outputs = transposed ? weight.size(1) * groups : weight.size(0);
  stack->insert(stack->begin() + first + 3, c10::IValue(std::vector<int64_t>{outputs}));
  on_cpu(named("aten::convolution_backward"), stack);
}

void on_cpu(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  const auto& schema = op.schema();
  Call call(schema);
  const size_t count = schema.arguments().size(), first = stack->size() - count;
  for (size_t i = first; i < stack->size(); ++i) {
    const c10::IValue& value = (*stack)[i];
    if (value.isTensor()) call.meet(value.toTensor());
    if (value.isTensorList()) for (const Tensor& each : value.toTensorVector()) call.meet(each);
    if (value.isDevice() && value.toDevice().type() == KIND && call.index < 0)
      call.index = value.toDevice().has_index() ? value.toDevice().index() : current;
  }
  if (call.index < 0) call.index = current;
  for (size_t i = 0; i < count; ++i) {
    c10::IValue& value = (*stack)[first + i];
    const auto& argument = schema.arguments()[i];
    const bool written = argument.alias_info() && argument.alias_info()->isWrite();
    if (value.isTensor()) {
      value = call.in(value.toTensor(), written);
    } else if (value.isTensorList()) {
      c10::List<Tensor> inside;
      for (const Tensor& each : value.toTensorVector()) inside.push_back(call.in(each, written));
      value = inside;
    } else if (value.isOptionalTensorList()) {
      c10::List<std::optional<Tensor>> inside;
      for (const std::optional<Tensor>& each : value.toOptionalTensorVector())
        inside.push_back(each ? std::optional<Tensor>(call.in(*each, written)) : std::nullopt);
      value = inside;
    } else if (value.isDevice() && value.toDevice().type() == KIND) {
      value = Device(c10::DeviceType::CPU);
    } else if (value.isNone() && argument.name() == "generator") {
      value = generator(call.index);
    }
  }
  call.begin();
  op.callBoxed(stack);
  call.grow();
  const size_t results = schema.returns().size(), start = stack->size() - results;
  for (size_t i = start; i < stack->size(); ++i) {
    c10::IValue& value = (*stack)[i];
    if (value.isTensor()) {
      value = call.out(value.toTensor());
    } else if (value.isTensorList()) {
      c10::List<Tensor> outside;
      for (const Tensor& each : value.toTensorVector()) outside.push_back(call.out(each));
      value = outside;
    } else {  // a number for the host, which has waited for it
      std::lock_guard<std::mutex> guard(lock);
      merge(host, clocks[streams[call.index]]);
    }
  }
}

Tensor empty(c10::IntArrayRef size, std::optional<at::ScalarType> dtype, std::optional<at::Layout>,
             std::optional<Device> device, std::optional<bool>, std::optional<at::MemoryFormat> format) {
  c10::DeviceGuard guard(device.value_or(Device(KIND, current)));
  return at::detail::empty_generic(size, &allocator, c10::DispatchKeySet(c10::DispatchKey::PrivateUse1),
                                   dtype.value_or(at::kFloat), format);
}

Tensor empty_strided(c10::IntArrayRef size, c10::IntArrayRef stride, std::optional<at::ScalarType> dtype,
                     std::optional<at::Layout>, std::optional<Device> device, std::optional<bool>) {
  c10::DeviceGuard guard(device.value_or(Device(KIND, current)));
  return at::detail::empty_strided_generic(size, stride, &allocator, c10::DispatchKeySet(c10::DispatchKey::PrivateUse1),
                                           dtype.value_or(at::kFloat));
}

Tensor copy_from(const Tensor& from, const Tensor& to, bool non_blocking) {
  for (const Tensor& side : {from, to}) {
    if (!here(side)) continue;
    std::lock_guard<std::mutex> guard(lock);
    const int64_t stream = streams[side.get_device()];
    launch(stream);
    touch(side, stream, side.is_same(to), "copy");
    if (!non_blocking || (!here(from) && !pinned.count(from.storage().data()))) merge(host, clocks[stream]);
  }
  if (to.numel()) (here(to) ? on_host(to) : to).copy_(here(from) ? on_host(from) : from);
  return to;
}

Tensor copy_from_and_resize(const Tensor& from, const Tensor& to) { return to.resize_(from.sizes()).copy_(from), to; }

const Tensor& resize(const Tensor& self, c10::IntArrayRef size, std::optional<at::MemoryFormat>) {
  size_t needed = self.itemsize() * (c10::multiply_integers(size) + self.storage_offset());
  if (needed > self.storage().nbytes()) Hooks().resizePrivateUse1Bytes(self.storage(), needed);
  self.unsafeGetTensorImpl()->set_sizes_contiguous(size);
  return self;
}

Tensor& set_storage(Tensor& self, c10::Storage storage, int64_t offset, c10::IntArrayRef size, c10::IntArrayRef stride) {
  self.unsafeGetTensorImpl()->set_storage_keep_dtype(std::move(storage));
  if (stride.empty() && !size.empty()) self.unsafeGetTensorImpl()->set_sizes_contiguous(size);
  else self.unsafeGetTensorImpl()->set_sizes_and_strides(size, stride);
  self.unsafeGetTensorImpl()->set_storage_offset(offset);
  return self;
}

Tensor& set_whole_storage(Tensor& self, c10::Storage storage) {
  const auto size = int64_t(storage.nbytes() / self.itemsize());
  return set_storage(self, std::move(storage), 0, {size}, {});
}

Tensor& set_tensor(Tensor& self, const Tensor& other) {
  return set_storage(self, other.storage(), other.storage_offset(), other.sizes(), other.strides());
}

void record_stream(Tensor& self, Stream stream) { allocator.recordStream(self.storage().data_ptr(), stream); }

// ---- Autocast: what multiplies does so in the lower type, as on a CPU

void lowered(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  c10::impl::ExcludeDispatchKeyGuard guard(c10::DispatchKey::AutocastPrivateUse1);
  const auto dtype = at::autocast::get_autocast_dtype(KIND);
  for (size_t i = stack->size() - op.schema().arguments().size(); i < stack->size(); ++i) {
    c10::IValue& value = (*stack)[i];
    if (value.isTensor() && here(value.toTensor()) && value.toTensor().scalar_type() == at::kFloat)
      value = value.toTensor().to(dtype);
  }
  op.callBoxed(stack);
}

TORCH_LIBRARY_IMPL(_, PrivateUse1, m) { m.fallback(torch::CppFunction::makeFromBoxedFunction<&on_cpu>()); }
TORCH_LIBRARY_IMPL(_, AutocastPrivateUse1, m) { m.fallback(torch::CppFunction::makeFallthrough()); }
TORCH_LIBRARY_IMPL(aten, AutocastPrivateUse1, m) {
  for (const char* name : {"conv1d", "conv2d", "conv3d", "linear", "matmul", "mm", "bmm", "addmm", "baddbmm"})
    m.impl(name, torch::CppFunction::makeFromBoxedFunction<&lowered>());
}
TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("empty.memory_format", &empty);
  m.impl("empty_strided", &empty_strided);
  m.impl("_copy_from", &copy_from);
  m.impl("_copy_from_and_resize", &copy_from_and_resize);
  m.impl("resize_", &resize);
  m.impl("set_.source_Storage_storage_offset", &set_storage);
  m.impl("set_.source_Storage", &set_whole_storage);
  m.impl("set_.source_Tensor", &set_tensor);
  m.impl("record_stream", &record_stream);
  m.impl("as_strided", &at::native::as_strided_tensorimpl);
  m.impl("view", &at::native::view);
  m.impl("_reshape_alias", [](const Tensor& self, c10::IntArrayRef size, c10::IntArrayRef stride) {
    return at::native::as_strided_tensorimpl(self, size, stride, std::nullopt);
  });
  m.impl("unfold", &at::native::unfold);
  for (const char* name : {"native_group_norm", "native_layer_norm", "addr", "mse_loss"})  // torch has others for any kind
    m.impl(name, torch::CppFunction::makeFromBoxedFunction<&on_cpu>());
  m.impl("convolution_overrideable", torch::CppFunction::makeFromBoxedFunction<&convolution>());
  m.impl("convolution_backward_overrideable", torch::CppFunction::makeFromBoxedFunction<&convolution_backward>());
}

// ---- What its module in Python is made of
TORCH_LIBRARY(standin, m) {
  m.def("current_device", [] { return int64_t(current); });
  m.def("seed", [](int64_t index, int64_t seed) { generator(index).set_current_seed(seed); });
  m.def("rng_state", [](int64_t index) { return generator(index).get_state(); });
  m.def("set_rng_state", [](int64_t index, const Tensor& state) { generator(index).set_state(state); });
  m.def("events_recorded", [] { return events_recorded; });
  m.def("blocks_in_use", [] { return int64_t(blocks.size()); });
}

struct Registered {
  Registered() {
    at::RegisterPrivateUse1HooksInterface(new Hooks);
    c10::SetAllocator(KIND, &allocator);
  }
} registered;

}  // namespace standin
