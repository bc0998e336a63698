// A stand-in for the kernel's driver of Apple GPUs: answers what Mesa asks before it compiles. Runs
// nothing.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <drm/asahi_drm.h>
#include <errno.h>
#include <fcntl.h>
#include <libdrm/drm.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include <xf86drm.h>
static int node = -1;
static unsigned long long next_offset = 1 << 20;
static unsigned next_handle = 1;
static struct {
  unsigned long long offset, size;
} objects[1 << 16];
static int verbose(void) { return getenv("AGX_VERBOSE") != NULL; }
static int ours(const char* path) { return path && !strcmp(path, "/dev/dri/renderD128"); }
static int node_fd(void) {
  if (node < 0) {
    node = memfd_create("asahi", 0);
    if (ftruncate(node, 1ull << 40)) perror("ftruncate");
  }
  return dup(node);
}
#define OPEN(NAME)                             \
  int NAME(const char* path, int flags, ...) { \
    if (ours(path)) return node_fd();          \
    va_list a;                                 \
    va_start(a, flags);                        \
    mode_t m = va_arg(a, int);                 \
    va_end(a);                                 \
    static int (*real)(const char*, int, ...); \
    if (!real) real = dlsym(RTLD_NEXT, #NAME); \
    return real(path, flags, m);               \
  }
OPEN(open) OPEN(open64) static int is_node(int fd) {
  struct stat s, n;
  if (node < 0 || fstat(fd, &s) || fstat(node, &n)) return 0;
  return s.st_ino == n.st_ino && s.st_dev == n.st_dev;
}
drmVersionPtr drmGetVersion(int fd) {
  if (!is_node(fd)) return NULL;
  drmVersionPtr v = calloc(1, sizeof *v);
  v->version_major = 1;
  v->name = strdup("asahi");
  v->name_len = 5;
  v->date = strdup("0");
  v->desc = strdup("asahi");
  return v;
}
void drmFreeVersion(drmVersionPtr v) { free(v); }
int drmGetNodeTypeFromFd(int fd) { return is_node(fd) ? DRM_NODE_RENDER : -1; }
char* drmGetRenderDeviceNameFromFd(int fd) {
  return is_node(fd) ? strdup("/dev/dri/renderD128") : NULL;
}
static drmDevicePtr device(void) {
  drmDevicePtr d = calloc(1, sizeof *d);
  d->nodes = calloc(DRM_NODE_MAX, sizeof(char*));
  d->nodes[DRM_NODE_RENDER] = strdup("/dev/dri/renderD128");
  d->available_nodes = 1 << DRM_NODE_RENDER;
  d->bustype = DRM_BUS_PLATFORM;
  d->businfo.platform = calloc(1, sizeof *d->businfo.platform);
  strcpy(d->businfo.platform->fullname, "/soc/gpu");
  d->deviceinfo.platform = calloc(1, sizeof *d->deviceinfo.platform);
  d->deviceinfo.platform->compatible = calloc(2, sizeof(char*));
  d->deviceinfo.platform->compatible[0] = strdup("apple,agx-t8103");
  return d;
}
int drmGetDevice2(int fd, uint32_t flags, drmDevicePtr* out) {
  if (!is_node(fd)) return -ENODEV;
  *out = device();
  return 0;
}
int drmGetDevice(int fd, drmDevicePtr* out) { return drmGetDevice2(fd, 0, out); }
int drmGetDevices2(uint32_t flags, drmDevicePtr devices[], int max) {
  if (devices && max > 0) devices[0] = device();
  return 1;
}
void drmFreeDevice(drmDevicePtr* d) { *d = NULL; }
void drmFreeDevices(drmDevicePtr d[], int n) {}
int drmGetCap(int fd, uint64_t cap, uint64_t* v) {
  *v = 1;
  return 0;
}
int drmCloseBufferHandle(int fd, uint32_t h) { return 0; }
int drmPrimeHandleToFD(int fd, uint32_t h, uint32_t f, int* out) { return -EINVAL; }
int drmPrimeFDToHandle(int fd, int p, uint32_t* h) { return -EINVAL; }
static unsigned syncs = 1;
int drmSyncobjCreate(int fd, uint32_t f, uint32_t* h) {
  *h = syncs++;
  return 0;
}
int drmSyncobjDestroy(int fd, uint32_t h) { return 0; }
int drmSyncobjWait(int fd, uint32_t* h, unsigned n, int64_t t, unsigned f, uint32_t* first) {
  if (first) *first = 0;
  return 0;
}
int drmSyncobjTimelineWait(int fd, uint32_t* h, uint64_t* p, unsigned n, int64_t t, unsigned f,
                           uint32_t* first) {
  if (first) *first = 0;
  return 0;
}
int drmSyncobjReset(int fd, const uint32_t* h, uint32_t n) { return 0; }
int drmSyncobjSignal(int fd, const uint32_t* h, uint32_t n) { return 0; }
int drmSyncobjTimelineSignal(int fd, const uint32_t* h, uint64_t* p, uint32_t n) { return 0; }
int drmSyncobjQuery2(int fd, uint32_t* h, uint64_t* p, uint32_t n, uint32_t f) {
  for (unsigned i = 0; i < n; i++) p[i] = 0;
  return 0;
}
int drmSyncobjTransfer(int fd, uint32_t a, uint64_t b, uint32_t c, uint64_t d, uint32_t e) {
  return 0;
}
int drmSyncobjHandleToFD(int fd, uint32_t h, int* o) {
  *o = node_fd();
  return 0;
}
int drmSyncobjFDToHandle(int fd, int o, uint32_t* h) {
  *h = syncs++;
  return 0;
}
int drmSyncobjImportSyncFile(int fd, uint32_t h, int s) { return 0; }
int drmSyncobjExportSyncFile(int fd, uint32_t h, int* s) {
  *s = node_fd();
  return 0;
}
int drmIoctl(int fd, unsigned long request, void* arg) {
  unsigned nr = _IOC_NR(request);
  if (verbose()) fprintf(stderr, "ioctl %u (asahi %d)\n", nr, (int)nr - DRM_COMMAND_BASE);
  if (nr < DRM_COMMAND_BASE) return 0;
  switch (nr - DRM_COMMAND_BASE) {
    case DRM_ASAHI_GET_PARAMS: {
      struct drm_asahi_get_params* g = arg;
      struct drm_asahi_params_global p = {0};
      const char* chip = getenv("AGX_CHIP");
      p.features = DRM_ASAHI_FEATURE_SOFT_FAULTS;
      p.gpu_generation = 13;
      p.gpu_variant = 'G';
      p.gpu_revision = 0x21;
      p.chip_id = 0x8103;  // M1
      if (chip && !strcmp(chip, "m2")) {
        p.gpu_generation = 14;
        p.gpu_revision = 0x10;
        p.chip_id = 0x8112;
      }
      p.num_dies = 1;
      p.num_clusters_total = 1;
      p.num_cores_per_cluster = 8;
      p.max_frequency_khz = 1278000;
      p.core_masks[0] = 0xff;
      p.vm_start = 0x10000000ull;
      p.vm_end = 0x7000000000ull;
      p.vm_kernel_min_size = 0x20000000ull;
      p.max_commands_per_submission = 64;
      p.max_attachments = 16;
      p.command_timestamp_frequency_hz = 24000000;
      memcpy((void*)(uintptr_t)g->pointer, &p, g->size < sizeof p ? g->size : sizeof p);
      return 0;
    }
    case DRM_ASAHI_GET_TIME: {
      struct timespec t;
      clock_gettime(CLOCK_MONOTONIC, &t);
      ((struct drm_asahi_get_time*)arg)->gpu_timestamp = t.tv_sec * 1000000000ull + t.tv_nsec;
      return 0;
    }
    case DRM_ASAHI_VM_CREATE:
      ((struct drm_asahi_vm_create*)arg)->vm_id = 1;
      return 0;
    case DRM_ASAHI_GEM_CREATE: {
      struct drm_asahi_gem_create* c = arg;
      unsigned h = next_handle++;
      objects[h & 65535].offset = next_offset;
      objects[h & 65535].size = c->size;
      next_offset += (c->size + 0xffff) & ~0xffffull;
      c->handle = h;
      return 0;
    }
    case DRM_ASAHI_GEM_MMAP_OFFSET: {
      struct drm_asahi_gem_mmap_offset* m = arg;
      m->offset = objects[m->handle & 65535].offset;
      return 0;
    }
    case DRM_ASAHI_GEM_BIND_OBJECT:
      ((struct drm_asahi_gem_bind_object*)arg)->object_handle = 1;
      return 0;
    case DRM_ASAHI_QUEUE_CREATE:
      ((struct drm_asahi_queue_create*)arg)->queue_id = 1;
      return 0;
    default:
      return 0;
  }
}
int drmCommandWriteRead(int fd, unsigned long i, void* d, unsigned long n) {
  return drmIoctl(
      fd, DRM_IOC(DRM_IOC_READ | DRM_IOC_WRITE, DRM_IOCTL_BASE, DRM_COMMAND_BASE + i, n), d);
}
int drmCommandWrite(int fd, unsigned long i, void* d, unsigned long n) {
  return drmCommandWriteRead(fd, i, d, n);
}
