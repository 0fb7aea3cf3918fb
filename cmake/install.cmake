# What `make install` puts where: library (both kinds), headers, pkg-config file, binary, manual, completion.
include(GNUInstallDirs)

install(TARGETS cot_shared cot_static
  LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR}
  ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(DIRECTORY include/coterie DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} FILES_MATCHING PATTERN "*.h")
if(TARGET coterie)
  install(TARGETS coterie RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
endif()

# The prefix is known only when installing (cmake --install --prefix), so the file is written then.
install(CODE "
  set(PROJECT_VERSION \"${PROJECT_VERSION}\")
  set(COT_LIBDIR \"${CMAKE_INSTALL_LIBDIR}\")
  set(COT_INCLUDEDIR \"${CMAKE_INSTALL_INCLUDEDIR}\")
  configure_file(\"${CMAKE_CURRENT_SOURCE_DIR}/cmake/coterie.pc.in\" \"${CMAKE_BINARY_DIR}/coterie.pc\" @ONLY)
")
install(FILES ${CMAKE_BINARY_DIR}/coterie.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)

file(GLOB COT_MAN_PAGES CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/docs/man/*.1)
install(FILES ${COT_MAN_PAGES} DESTINATION ${CMAKE_INSTALL_MANDIR}/man1)

set(COT_COMPLETION ${CMAKE_CURRENT_SOURCE_DIR}/tools/completion)
install(FILES ${COT_COMPLETION}/coterie.bash DESTINATION ${CMAKE_INSTALL_DATADIR}/bash-completion/completions RENAME coterie)
install(FILES ${COT_COMPLETION}/_coterie DESTINATION ${CMAKE_INSTALL_DATADIR}/zsh/site-functions)
install(FILES ${COT_COMPLETION}/coterie.fish DESTINATION ${CMAKE_INSTALL_DATADIR}/fish/vendor_completions.d)
