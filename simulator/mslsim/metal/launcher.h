// Turns the words that the runtime passes into the arguments of a kernel; see launcher.py.
#pragma once

// Types of a function's parameters.
template <int I, typename A, typename... R>
struct __msl_nth {
  typedef typename __msl_nth<I - 1, R...>::type type;
};
template <typename A, typename... R>
struct __msl_nth<0, A, R...> {
  typedef A type;
};
template <typename F>
struct __msl_fn;
template <typename R, typename... A>
struct __msl_fn<R(A...)> {
  template <int I>
  using arg = typename __msl_nth<I, A...>::type;
};

// A pointer or a reference to a buffer, from its address.
template <typename T>
struct __msl_buf;
#define MSL_BUFFER(SPACE)                                            \
  template <typename T>                                              \
  struct __msl_buf<SPACE T*> {                                       \
    static MSL_INLINE SPACE T* get(ulong p) { return (SPACE T*)p; }  \
  };                                                                 \
  template <typename T>                                              \
  struct __msl_buf<SPACE T&> {                                       \
    static MSL_INLINE SPACE T& get(ulong p) { return *(SPACE T*)p; } \
  };
MSL_BUFFER(device)
MSL_BUFFER(constant)
MSL_BUFFER(threadgroup)

// A built-in value of one to three words.
template <typename T>
struct __msl_bi {
  static MSL_INLINE T get(const thread uint* p) { return (T)p[0]; }
};
#define MSL_BUILTIN(T)                                                                            \
  template <>                                                                                     \
  struct __msl_bi<T##2> {                                                                         \
    static MSL_INLINE T##2 get(const thread uint* p) { return T##2 {(T)p[0], (T)p[1]}; }          \
  };                                                                                              \
  template <>                                                                                     \
  struct __msl_bi<T##3> {                                                                         \
    static MSL_INLINE T##3 get(const thread uint* p) { return T##3 {(T)p[0], (T)p[1], (T)p[2]}; } \
  };
MSL_BUILTIN(uint)
MSL_BUILTIN(ushort)
MSL_BUILTIN(int)
MSL_BUILTIN(short)
